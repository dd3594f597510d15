"""From files to batches: manifests, media reading, features, loading."""
