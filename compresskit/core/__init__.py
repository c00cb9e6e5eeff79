"""What every room needs and nothing else: errors, options, registries, types, reports. Imports no other room."""
