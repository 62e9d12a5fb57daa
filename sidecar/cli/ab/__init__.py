"""`trail ab`: experiments on live traffic."""
