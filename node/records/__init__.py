"""Everything that is signed: canonical records shared by chunks and credit."""
