"""The ground of the course: what every chapter needs and no chapter teaches. Imports no chapter."""
