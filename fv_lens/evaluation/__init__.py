"""What a vector does and says: accuracy with controls, vocabulary decoding, names, similarity to human judgement."""
