"""What is served over HTTP: the model that takes rows of a table, and the server around it."""
