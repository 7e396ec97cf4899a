from . import capture as capture
from . import contact as contact
from . import muon as muon
from . import redundant as redundant
from . import roles as roles
from . import shardings as shardings
from . import surgery as surgery
