"""What Sparkle's own long tasks do, each subject in a file of its own, on tables in the ledger's database."""
