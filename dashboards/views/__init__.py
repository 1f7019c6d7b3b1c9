"""The pages, one in each file: `show` draws it."""
