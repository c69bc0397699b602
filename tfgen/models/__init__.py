"""The families and what they are made of; `import tfgen` imports the families."""
