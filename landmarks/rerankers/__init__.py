"""Re-ranking: a file a method, and `reranker`, which applies the methods that `chain` lets be joined."""
