"""Ways to show results: text in a terminal, and HTML in pages and in Jupyter."""
