"""One module for each verb of the command line: plan, run, finish."""
