"""Room 3: the call to the model. An OpenAI-compatible client with retries, circuits, fallback, and the local model."""
