"""For the project's own tests: ``pytester`` runs pytest on small test files; see ``tests`` for the others."""

pytest_plugins = ["pytester", "pace", "lacking", "in_order"]
