"""Training of the learned classifier: ``make train DATA=...`` repeats the shipped weights;
docs/detection.md says how.
"""
