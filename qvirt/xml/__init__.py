"""The XML binding: classes whose field lines read and write one XML element each. Knows no libvirt word."""
