"""A report made of results alone: numbers, figures, and one HTML file that holds them."""
