"""The page of `specbench report`: its template, style and script, and what fills them."""
