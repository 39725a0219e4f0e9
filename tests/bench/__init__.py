"""The figures of the budgets: `make bench`, or `python -m tests.bench --help`."""
