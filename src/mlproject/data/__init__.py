"""Files to batches: the only room that reads FASTA, BED, bigWig and TFRecord files."""
