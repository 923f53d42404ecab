"""Questions answered by a query, judged by what it returns."""
