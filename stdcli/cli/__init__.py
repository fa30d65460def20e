"""The command line: the only package that knows Typer; one thin file per command group."""
