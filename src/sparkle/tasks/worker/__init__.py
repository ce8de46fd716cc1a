"""The worker: a Celery parent process, its children, and what they tell each other. Needs the extra ``tasks``."""
