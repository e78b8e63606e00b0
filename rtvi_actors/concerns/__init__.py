"""The built-in actors, one a file. They know each other by name only; session.py wires them."""
