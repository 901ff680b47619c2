"""The edge to the dataset: outcomes and carried columns become Parquet parts, each whole under its name or absent."""
