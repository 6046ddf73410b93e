document.title+="!";
