"""What the mesh knows: stores (arrays, Chroma, a working set before it, one owner a folder), the writer, the ingest."""
