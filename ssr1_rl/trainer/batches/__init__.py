"""From a rank's groups to the tensors of its passes: rows, clips, packing, balance. No model runs here."""
