"""Programs written to order, judged by hidden tests."""
