"""What several test files share. Each module says in its first line what it holds."""
