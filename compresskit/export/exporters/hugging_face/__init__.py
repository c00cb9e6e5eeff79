"""Files of transformers models under the names that other libraries read, each proven by a reader of its own."""
