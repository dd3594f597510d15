"""The search page: a web server of its own, one page, and nothing that comes from elsewhere."""
