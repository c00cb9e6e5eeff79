"""Models in other runtimes: written, run there, compared."""
