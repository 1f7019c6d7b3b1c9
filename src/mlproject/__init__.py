"""The platform around the models: data, training, tracking and one command per entry point."""

__version__ = "0.2.0"
