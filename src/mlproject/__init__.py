"""The platform around the models: data, training, tracking and one command per entry point."""
