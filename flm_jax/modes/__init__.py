"""One verb each: the only place where reading, computing and writing meet."""
