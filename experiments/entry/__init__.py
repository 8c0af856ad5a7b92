"""How a binary starts and ends: its imports, its one line on bad input, its exit status."""
