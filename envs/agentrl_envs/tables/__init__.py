"""Questions over tables, after TaTToo (arXiv:2510.06217)."""
