"""Tasks, short and long, under one roof. Importing this loads neither SQLAlchemy nor Celery."""
