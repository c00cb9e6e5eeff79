"""What has a name, in words: options tables, the glossary, and the explanation of one name."""
