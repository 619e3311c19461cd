"""Reading, comparing and showing results. Imports no torch, cupy or transformers."""
