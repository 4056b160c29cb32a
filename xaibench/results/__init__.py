"""Results on disk: runs and the leaderboard's."""
