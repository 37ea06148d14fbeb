"""Files of others and our own: tables, spreadsheets, JSON, pictures, predictions."""
