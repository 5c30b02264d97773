"""Which measures of a trained model predict its generalisation gap?"""
