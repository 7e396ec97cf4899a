"""The program `jaxbias`: command line, report page. It may need extras; nothing outside of this room imports it."""
