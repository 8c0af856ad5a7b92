"""What is computed with the weights besides training them."""
