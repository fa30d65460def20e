"""Model families: what each adds to the shared loading code."""
