"""For the project's own tests: ``pytester`` runs pytest on small test files."""

pytest_plugins = ["pytester"]
