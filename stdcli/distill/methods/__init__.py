"""The methods of distillation, one a file; `README.md` lists them."""
