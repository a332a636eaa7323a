"""Learn which products go together, and complete an outfit (notebook 5)."""
