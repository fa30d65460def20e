"""stdcli: few-step stylisation of pictures and videos by distilled diffusion models."""

__version__ = "0.1.0"
