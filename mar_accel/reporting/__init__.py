"""What people look at to decide: the page of many runs, and its figures for a paper."""
