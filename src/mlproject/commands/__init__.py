"""One module per entry point of `MLproject`, of the same name: `Options` and `run(options, run)`."""
