"""`fv-lens humans`: vectors beside human judgements of relations."""
