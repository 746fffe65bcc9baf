//! The slow, exact executor of graphs and programs: the definition of every operator.
